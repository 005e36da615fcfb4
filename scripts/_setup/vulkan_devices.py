"""Prints the GPUs that this machine's Vulkan drivers list, as JSON; nothing where there are none.

A program of its own, because a driver may crash. Of each device: its name, its kind ("cpu" is a
device in software), and whether llama.cpp can use it (16-bit storage, as llama.cpp asks for).
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys

KINDS = {1: "integrated", 2: "discrete", 3: "virtual", 4: "cpu"}
LIBRARIES = {"win32": "vulkan-1.dll", "darwin": "libvulkan.1.dylib"}
VERSION = 1 << 22 | 2 << 12  # Vulkan 1.2

# Structures of vulkan_core.h. Each begins with its type's number and a pointer to a further one.


class Application(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("name_version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class InstanceInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(Application)),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class Storage16(ctypes.Structure):
    """VkPhysicalDevice16BitStorageFeatures."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("storage_buffer", ctypes.c_uint32),
        ("others", ctypes.c_uint32 * 3),
    )


class Features(ctypes.Structure):
    """VkPhysicalDeviceFeatures2."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("features", ctypes.c_uint32 * 64),  # 55, and room for more
    )


def devices() -> list[dict[str, object]]:
    """name, kind and usable of every device; OSError where there is no Vulkan loader."""
    vulkan = ctypes.CDLL(LIBRARIES.get(sys.platform, "libvulkan.so.1"))
    application = Application(api_version=VERSION)
    info = InstanceInfo(type=1, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)):
        return []
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    found = []
    for handle in handles[: count.value]:
        properties = ctypes.create_string_buffer(4096)  # VkPhysicalDeviceProperties takes 824
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
        version, kind, name = struct.unpack_from("I12xi256s", properties.raw)
        storage = Storage16(type=1000083000)
        address = ctypes.addressof(storage)
        if version >= VERSION:
            features = Features(type=1000059000, next=address)
            vulkan.vkGetPhysicalDeviceFeatures2(ctypes.c_void_p(handle), ctypes.byref(features))
        found.append(
            {
                "name": name.partition(b"\0")[0].decode("utf-8", "replace"),
                "kind": KINDS.get(kind, "other"),
                "usable": bool(storage.storage_buffer),
            }
        )
    vulkan.vkDestroyInstance(instance, None)
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(devices()))
    except (OSError, AttributeError):  # no loader, or one older than Vulkan 1.1
        print("[]")
