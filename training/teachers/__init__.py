"""English sparse teachers: frozen, outside the saved model, and their vectors kept on disk."""
