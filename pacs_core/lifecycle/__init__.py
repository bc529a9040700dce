"""What happens to instances after they arrived."""
