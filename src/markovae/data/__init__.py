"""Images, captions and attributes from folders, arrays, faces, digits and shards; splits that share no image."""
