"""The model of the task engine: its world, what it knows, what it does, and what must hold after every step."""
