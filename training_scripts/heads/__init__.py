"""People in three dimensions whose lips are known: who they are, how they are filmed, and the drawing of both."""
