"""What one answer is asked for, in the words of the OpenAI API or of the command line."""
