"""Accuracy of a configuration on all development sets: ``python benchmarks/accuracy DATA``."""
