"""Readers and writers: images, masks, probability maps, folders, VOC; all lazy."""
