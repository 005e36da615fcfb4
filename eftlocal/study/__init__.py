"""Measuring: the gap recovered, speed, which model moved which token; intervals, tables, pages."""
