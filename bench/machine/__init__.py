"""The machine around a measurement: its state, its ceilings and whether it is quiet."""
