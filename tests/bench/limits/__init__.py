"""Many keys at random limits, with more work than these allow: no key gets more, and none gets less."""
