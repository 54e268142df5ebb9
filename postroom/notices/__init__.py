"""Tells the admins what is wrong: looks at the installation, decides, and sends notices by the ways of POSTROOM_NOTIFY."""
