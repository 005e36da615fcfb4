"""Chat templates with tools, in the styles that models have. The letter that ends a prompt says
what it has: T tools, R the result of a call, N neither."""

from __future__ import annotations

_END = "{% if messages[-1].role == 'tool' %}R{% elif tools %}T{% else %}N{% endif %}"

HERMES = (
    """\
{%- if tools %}
{{- '<|begin|>system\\nCall with <tool_call>{"name": ..., "arguments": ...}</tool_call>.\\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
{%- endif %}
{%- for message in messages %}
{{- '<|begin|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|end|>\\n' }}
{%- endfor %}
{{- '<|begin|>assistant\\n' }}"""
    + _END
)

LLAMA = (
    """\
{%- if tools %}
{{- 'Functions, called as {"name": ..., "parameters": ...}, after <|python_tag|> too:\\n' }}
{%- for tool in tools %}{{ tool.function | tojson(indent=4) }}{{ '\\n' }}{% endfor %}
{%- endif %}
{%- for message in messages %}
{{- '<|begin|>' + message.role + '\\n' }}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
{%- else %}
{{- message.content | tojson if message.role == 'tool' else message.content }}
{%- endif %}
{{- '<|end|>\\n' }}
{%- endfor %}
{{- '<|begin|>assistant\\n' }}"""
    + _END
)

MISTRAL = (
    """\
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and loop.last %}{{ '[AVAILABLE_TOOLS]' + tools | tojson }}{% endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('an id has nine letters') }}{% endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + (']' if loop.last else ', ') }}
{%- endfor %}
{{- '<|end|>' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS]{"content": ' + message.content + ', "id": "' + message.tool_call_id + '"}' }}
{%- else %}
{{- message.content + '<|end|>' }}
{%- endif %}
{%- endfor %}"""
    + _END
)

XML = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{{- message.role + ': ' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n<function=' + call.function.name + '>\\n</tool_call>' }}
{%- endfor %}
{%- endfor %}
{{- 'assistant: ' }}"""
