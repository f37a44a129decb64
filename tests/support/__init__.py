"""What the tests of all rooms share; imported as ``from support.waiting import wait_until``."""
