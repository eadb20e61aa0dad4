"""Raw files -> encoded Parquet shards -> batches."""
