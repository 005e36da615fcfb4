"""Work that must not take the program down, done in a child process that is kept between tasks."""
