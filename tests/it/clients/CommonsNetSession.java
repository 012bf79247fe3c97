// Apache commons-net, told one step at a time; the steps and their answers are those of support/real_clients.rs.
//
//     java CommonsNetSession.java MODE VERSION PORT AUTHORITY USER PASSWORD

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.commons.net.ftp.FTP;
import org.apache.commons.net.ftp.FTPFile;
import org.apache.commons.net.ftp.FTPReply;
import org.apache.commons.net.ftp.FTPSClient;

public class CommonsNetSession {
    private static final PrintStream ANSWERS = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private final FTPSClient client;

    /** Trusts this authority and nobody else. */
    private CommonsNetSession(boolean implicit, String version, Path authority) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (InputStream pem = Files.newInputStream(authority)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        client = new FTPSClient(implicit, context);
        client.setEnabledProtocols(new String[] {"TLSv" + version});
        client.setEndpointCheckingEnabled(true);
        client.setControlEncoding(StandardCharsets.UTF_8.name());
        client.setConnectTimeout(60_000);
        client.setDefaultTimeout(60_000);
        client.setDataTimeout(Duration.ofSeconds(60));
    }

    private void logIn(int port, String user, String password) throws IOException {
        client.connect("127.0.0.1", port);
        must(FTPReply.isPositiveCompletion(client.getReplyCode()));
        must(client.login(user, password));
        client.execPBSZ(0);
        client.execPROT("P");
        client.enterLocalPassiveMode();
        must(client.setFileType(FTP.BINARY_FILE_TYPE));
    }

    private void take(String[] words) throws IOException {
        switch (words[0]) {
            case "upload" -> upload(words[1], words[2]);
            case "download" -> download(words[1], words[2], false);
            case "continue-upload" -> {
                long offset = client.mlistFile(words[2]).getSize();
                client.setRestartOffset(offset);
                try (InputStream file = new FileInputStream(words[1])) {
                    file.skipNBytes(offset);
                    must(client.storeFile(words[2], file));
                }
            }
            case "continue-download" -> {
                client.setRestartOffset(Files.size(Path.of(words[2])));
                download(words[1], words[2], true);
            }
            case "append" -> {
                try (InputStream file = new FileInputStream(words[1])) {
                    must(client.appendFile(words[2], file));
                }
            }
            case "upload-text" -> {
                must(client.setFileType(FTP.ASCII_FILE_TYPE));
                upload(words[1], words[2]);
                must(client.setFileType(FTP.BINARY_FILE_TYPE));
            }
            case "download-text" -> {
                must(client.setFileType(FTP.ASCII_FILE_TYPE));
                download(words[1], words[2], false);
                must(client.setFileType(FTP.BINARY_FILE_TYPE));
            }
            case "list" -> {
                for (FTPFile entry : client.listFiles(words[1])) {
                    String kind = entry.isDirectory() ? "dir\t-" : "file\t" + entry.getSize();
                    ANSWERS.println("entry\t" + kind + "\t" + entry.getName());
                }
                must(FTPReply.isPositiveCompletion(client.getReplyCode()));
            }
            case "rename" -> must(client.rename(words[1], words[2]));
            case "delete" -> must(client.deleteFile(words[1]));
            case "mkdir" -> must(client.makeDirectory(words[1]));
            case "rmdir" -> must(client.removeDirectory(words[1]));
            default -> throw new IOException("no such step: " + words[0]);
        }
    }

    private void upload(String local, String remote) throws IOException {
        try (InputStream file = new FileInputStream(local)) {
            must(client.storeFile(remote, file));
        }
    }

    private void download(String remote, String local, boolean append) throws IOException {
        try (OutputStream file = new FileOutputStream(local, append)) {
            must(client.retrieveFile(remote, file));
        }
    }

    private static void must(boolean succeeded) throws Refused {
        if (!succeeded) {
            throw new Refused();
        }
    }

    /** The reply that the client holds says why. */
    private static class Refused extends IOException {
    }

    private interface Step {
        void take() throws IOException;
    }

    /** Takes a step and answers it; false when it did not succeed. */
    private boolean answered(Step step) {
        try {
            step.take();
            ANSWERS.println("done");
            return true;
        } catch (Refused refused) {
            ANSWERS.println("refused\t" + client.getReplyCode());
        } catch (IOException error) {
            ANSWERS.println("failed\t" + error.toString().replaceAll("\\s+", " "));
        }
        return false;
    }

    public static void main(String[] arguments) throws Exception {
        boolean implicit = arguments[0].equals("implicit");
        CommonsNetSession session = new CommonsNetSession(implicit, arguments[1], Path.of(arguments[3]));
        int port = Integer.parseInt(arguments[2]);
        if (!session.answered(() -> session.logIn(port, arguments[4], arguments[5]))) {
            return;
        }
        BufferedReader steps = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = steps.readLine(); line != null; line = steps.readLine()) {
            String[] words = line.split("\t");
            session.answered(() -> session.take(words));
        }
        session.client.logout();
        session.client.disconnect();
    }
}
