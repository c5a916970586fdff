package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Kinds of chunks, RFC 9260 section 3.2.
const (
	initiate    = 1
	initiateAck = 2
	abort       = 6
	cookieEcho  = 10
	cookieAck   = 11
)

// Tag is the verification tag that this program asks to be spoken to with, on both sides.
const tag = 0x52464e43

// CookieParameter is the type of the state cookie in an INIT ACK.
const cookieParameter = 7

// packet is a packet with one chunk.
type packet struct {
	from, to    uint16
	tag         uint32
	kind        byte
	initiateTag uint32
	cookie      []byte
	cookieTag   uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// bytes is the packet as it goes over the wire, behind the IP header.
func (p packet) bytes() []byte {
	var value []byte
	switch p.kind {
	case initiate, initiateAck:
		value = binary.BigEndian.AppendUint32(value, tag)
		value = binary.BigEndian.AppendUint32(value, 65536) // receiver window
		value = binary.BigEndian.AppendUint16(value, 1)     // streams out
		value = binary.BigEndian.AppendUint16(value, 1)     // streams in
		value = binary.BigEndian.AppendUint32(value, 1)     // first sequence number
		if p.kind == initiateAck {
			value = binary.BigEndian.AppendUint16(value, cookieParameter)
			value = binary.BigEndian.AppendUint16(value, 8)
			value = binary.BigEndian.AppendUint32(value, p.tag)
		}
	case cookieEcho:
		value = p.cookie
	}
	out := binary.BigEndian.AppendUint16(nil, p.from)
	out = binary.BigEndian.AppendUint16(out, p.to)
	out = binary.BigEndian.AppendUint32(out, p.tag)
	out = append(out, 0, 0, 0, 0, p.kind, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(4+len(value)))
	out = append(out, value...)
	binary.LittleEndian.PutUint32(out[8:], crc32.Checksum(out, castagnoli))
	return out
}

var errMalformed = errors.New("not a packet with a chunk")

// parse reads a packet's first chunk.
func parse(raw []byte) (packet, error) {
	if len(raw) < 16 {
		return packet{}, errMalformed
	}
	p := packet{
		from: binary.BigEndian.Uint16(raw),
		to:   binary.BigEndian.Uint16(raw[2:]),
		tag:  binary.BigEndian.Uint32(raw[4:]),
		kind: raw[12],
	}
	length := int(binary.BigEndian.Uint16(raw[14:]))
	if length < 4 || 12+length > len(raw) {
		return packet{}, errMalformed
	}
	value := raw[16 : 12+length]
	switch p.kind {
	case initiate, initiateAck:
		if len(value) < 16 {
			return packet{}, errMalformed
		}
		p.initiateTag = binary.BigEndian.Uint32(value)
		if p.kind == initiateAck {
			return p, p.readCookie(value[16:])
		}
	case cookieEcho:
		if len(value) != 4 {
			return packet{}, errMalformed
		}
		p.cookieTag = binary.BigEndian.Uint32(value)
	}
	return p, nil
}

// readCookie looks for the state cookie among the parameters of an INIT ACK.
func (p *packet) readCookie(parameters []byte) error {
	for len(parameters) >= 4 {
		length := int(binary.BigEndian.Uint16(parameters[2:]))
		if length < 4 || length > len(parameters) {
			return errMalformed
		}
		if binary.BigEndian.Uint16(parameters) == cookieParameter {
			p.cookie = append([]byte(nil), parameters[4:length]...)
			return nil
		}
		parameters = parameters[min((length+3)&^3, len(parameters)):]
	}
	return errMalformed
}
