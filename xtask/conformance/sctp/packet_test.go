package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

func TestEveryKindOfPacketIsReadAsItWasWritten(t *testing.T) {
	for _, sent := range []packet{
		{from: 1, to: 2, kind: initiate},
		{from: 1, to: 2, tag: 7, kind: initiateAck},
		{from: 1, to: 2, tag: 7, kind: cookieEcho, cookie: []byte{0, 0, 0, 9}},
		{from: 1, to: 2, tag: 7, kind: cookieAck},
		{from: 1, to: 2, tag: 7, kind: abort},
	} {
		raw := sent.bytes()
		got, err := parse(raw)
		if err != nil || got.from != 1 || got.to != 2 || got.tag != sent.tag || got.kind != sent.kind {
			t.Errorf("%+v was read as %+v, %v", sent, got, err)
		}
		sum := binary.LittleEndian.Uint32(raw[8:])
		copy(raw[8:12], []byte{0, 0, 0, 0})
		if sum != crc32.Checksum(raw, castagnoli) {
			t.Errorf("%+v has a wrong checksum", sent)
		}
	}
}

func TestTheCookieComesBackAsTheTag(t *testing.T) {
	ack, err := parse(packet{from: 2, to: 1, tag: 9, kind: initiateAck}.bytes())
	if err != nil || !bytes.Equal(ack.cookie, []byte{0, 0, 0, 9}) || ack.initiateTag != tag {
		t.Fatalf("%+v, %v", ack, err)
	}
	echo, err := parse(packet{from: 1, to: 2, tag: ack.initiateTag, kind: cookieEcho, cookie: ack.cookie}.bytes())
	if err != nil || echo.cookieTag != 9 {
		t.Fatalf("%+v, %v", echo, err)
	}
}

func TestWhatIsNoPacketIsRefused(t *testing.T) {
	whole := packet{from: 2, to: 1, tag: 9, kind: initiateAck}.bytes()
	for length := range len(whole) {
		if _, err := parse(whole[:length]); err == nil {
			t.Errorf("%d bytes of %d were taken for a packet", length, len(whole))
		}
	}
}
