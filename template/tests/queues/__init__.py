"""Tests of the transport: what is particular to the engine that carries the tasks."""
