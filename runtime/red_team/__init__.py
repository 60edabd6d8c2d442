"""The red team: students trained the way a thief would, from the clean and from the hardened teacher."""
