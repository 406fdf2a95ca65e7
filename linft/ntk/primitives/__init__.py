"""Per-example derivatives of any pure function: its traced program, primitive by primitive."""
