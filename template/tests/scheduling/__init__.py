"""Tests of schedules: when they fire, that each firing happens once, and what drives them."""
