"""What is known of a search before anything heavy is loaded."""
