// Command pod is all that the containers of the test run: a server that tells whoever connects its name, or, with no
// arguments, the process that holds a pod's namespaces.
//
//	pod NAME PORT...     a port is like 80 or 53/UDP
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 2 {
		for _, port := range os.Args[2:] {
			if err := serve(os.Args[1], port); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	<-end
}

func serve(name, port string) error {
	number, protocol, _ := strings.Cut(port, "/")
	if protocol == "UDP" {
		conn, err := net.ListenPacket("udp", ":"+number)
		if err == nil {
			go answerPackets(name, conn)
		}
		return err
	}
	listener, err := net.Listen("tcp", ":"+number)
	if err == nil {
		go answer(name, listener)
	}
	return err
}

func answer(name string, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, name) // a client that is gone doesn't matter
		_ = conn.Close()
	}
}

func answerPackets(name string, conn net.PacketConn) {
	buffer := make([]byte, 64)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(name), from)
	}
}
