// LIST or MLSD as Apache commons-net parses it.
//
//     java CommonsNetListing.java MODE VERSION PORT AUTHORITY USER PASSWORD DIRECTORY COMMAND
//
// A line for each entry: kind (file, dir or link), size, time in UTC, name in hexadecimal digits.

import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.HexFormat;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.commons.net.ftp.FTPFile;
import org.apache.commons.net.ftp.FTPSClient;

public class CommonsNetListing {
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyyMMddHHmmss").withZone(ZoneOffset.UTC);

    public static void main(String[] arguments) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (InputStream pem = Files.newInputStream(Path.of(arguments[3]))) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        FTPSClient client = new FTPSClient(arguments[0].equals("implicit"), context);
        client.setEnabledProtocols(new String[] {"TLSv" + arguments[1]});
        // Bytes as the characters of their numbers: every name comes through.
        client.setControlEncoding(StandardCharsets.ISO_8859_1.name());
        client.connect("127.0.0.1", Integer.parseInt(arguments[2]));
        if (!client.login(arguments[4], arguments[5])) {
            throw new IllegalStateException(client.getReplyString());
        }
        client.execPBSZ(0);
        client.execPROT("P");
        client.enterLocalPassiveMode();
        boolean facts = arguments[7].equals("MLSD");
        PrintStream output = new PrintStream(System.out, false, StandardCharsets.US_ASCII);
        for (FTPFile entry : facts ? client.mlistDir(arguments[6]) : client.listFiles(arguments[6])) {
            String kind = entry.isDirectory() ? "dir" : entry.isSymbolicLink() ? "link" : entry.isFile() ? "file" : "other";
            String name = HexFormat.of().formatHex(entry.getName().getBytes(StandardCharsets.ISO_8859_1));
            output.println(kind + " " + entry.getSize() + " " + TIME.format(entry.getTimestamp().toInstant()) + " " + name);
        }
        output.flush();
        client.logout();
        client.disconnect();
    }
}
