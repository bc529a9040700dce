"""What happens to instances after they arrived: planned from the index, done study by study, repeatable after a crash at any line."""
