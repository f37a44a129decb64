"""Several losses, one gradient: how those meet that fall on the same parameters."""
