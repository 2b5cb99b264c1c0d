"""The codec: buckets of words to payloads and back; see `bucket` for the path."""
