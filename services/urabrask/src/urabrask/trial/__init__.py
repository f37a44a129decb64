"""Runs a kernel for real. Everything in here computes with torch and lives in a child process only."""
