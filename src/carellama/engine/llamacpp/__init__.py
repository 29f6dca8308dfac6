"""Answers by llama.cpp, in this process."""
