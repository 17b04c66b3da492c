"""What can be known of a search before anything heavy is loaded."""
