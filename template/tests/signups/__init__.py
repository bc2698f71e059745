"""Tests of the example feature `signups`; copy from them for a feature of your own."""
