"""OTP's supervisor semantics on Trio."""
