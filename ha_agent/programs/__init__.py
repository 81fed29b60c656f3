"""Foreign programs: run for so long at most, with nothing of them left alive."""
