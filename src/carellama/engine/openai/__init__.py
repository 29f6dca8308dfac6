"""Answers by servers that speak OpenAI's protocol; vLLM as a child process."""
