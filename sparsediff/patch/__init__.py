"""What a patch is: its manifest, its bytes, and the words that its buckets speak of."""
