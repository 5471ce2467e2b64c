"""The speech itself: where somebody speaks, what that opens and closes, and how far lips and sound lie apart."""
