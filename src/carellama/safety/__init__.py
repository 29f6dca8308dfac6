"""What stands beside the model: emergencies, requests it must not answer, and what a person is told first."""
