"""Tests of the example feature `reports`; copy from them for a feature of your own."""
