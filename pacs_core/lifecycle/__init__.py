"""What happens to instances after they arrived: moved, copied, recalled, removed. Free of any flow engine."""
