"""The loop: roles decoded in step, round by round. Token ids in, token ids out."""
