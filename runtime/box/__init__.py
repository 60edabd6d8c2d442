"""The sealed box: what distillation needs, in one file that only the holders of a key can open.

The file tier of Safe Distillation Box (arXiv 2112.03695). `keys` and `signing` make and read key files, `contents` says
what a box holds and how it is laid out, `difference` leaves out what the hardened model holds anyway, `encryption` is
age's format through pyrage, `seal` writes a box, `receive` checks one while it is decrypted, and `unlock` gives the
teacher back:

    from kdguard.runtime.box.unlock import unlocked_model

    unlocked = unlocked_model(Path("hardened.onnx"), Path("hardened.box"), Path("alice.key"))
    unlocked.model, unlocked.contents.augmentation
"""
