"""Tests of the task engine: the promises that the README makes."""
