"""How long linting takes and what it holds in memory, beside squawk and beside an interpreter that does nothing."""
