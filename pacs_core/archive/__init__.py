"""What the archive does with instances, free of any protocol: taking in, indexing, importing, finding."""
