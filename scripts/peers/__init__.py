"""What people would use instead of this program, each way in a process of its own.

`table` names the ways and their settings, `child` is the process of one, `ours`, `llama_way` and
`torch_way` answer prompts; `measuring` asks all of them in turn, `figures` makes of that medians
and ratios, a page and a picture.
"""
