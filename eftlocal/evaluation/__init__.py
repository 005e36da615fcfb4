"""Tasks whose answers can be measured, and the models and settings that are compared on them."""
