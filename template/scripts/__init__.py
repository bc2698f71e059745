"""Commands for developing this service; the Makefile lists them."""
