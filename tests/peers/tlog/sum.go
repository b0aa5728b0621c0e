package main

import (
	"crypto/sha256"
	"encoding/binary"
)

// sum is the key id of a note's key.
func sum(name string, key []byte) uint32 {
	digest := sha256.Sum256(append([]byte(name+"\n"), key...))
	return binary.BigEndian.Uint32(digest[:])
}
