module github.com/appisolation/appisolation/test/olm

go 1.26.0

replace github.com/appisolation/appisolation => ../..
