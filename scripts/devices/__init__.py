"""What scripts/check_devices.py runs on the devices that llama.cpp finds."""
