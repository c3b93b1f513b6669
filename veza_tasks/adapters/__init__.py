"""One thin module per real system; no policy in them."""
