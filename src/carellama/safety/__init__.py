"""What keeps users and their data safe: de-identification of texts."""
