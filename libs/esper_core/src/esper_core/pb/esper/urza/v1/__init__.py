"""Generated from the .proto files by tools/generate_protos.py; not to be edited."""
