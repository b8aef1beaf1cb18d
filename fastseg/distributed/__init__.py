"""Start ranks, exchange values between them, and detect one that hangs or fails."""
